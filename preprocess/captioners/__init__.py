"""Models that say what a picture shows, behind one interface. Nothing here is imported before it is asked for."""
