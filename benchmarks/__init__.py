"""Long and heavy trials of the whole facility, run by hand; nothing here is installed."""
