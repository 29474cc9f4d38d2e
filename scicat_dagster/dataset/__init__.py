"""From a complete file to the bodies that SciCat gets; nothing here writes anything."""
