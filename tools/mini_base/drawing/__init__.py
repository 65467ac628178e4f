"""How the embedded base's world is drawn: colours with names, fills, shapes, parts, backgrounds and photographs."""
