"""For those who run the service: health, measures, reports, notifications, reingest and retention."""
