"""Other programs: the announcements that they post, and the events that they are sent."""
