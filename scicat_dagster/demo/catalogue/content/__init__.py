"""What the stand-in stores: documents, and how the server validates and completes them."""
