"""Captioning models behind one interface. They are imported only when they are used."""
