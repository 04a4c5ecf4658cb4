"""An update as one compiled graph."""
