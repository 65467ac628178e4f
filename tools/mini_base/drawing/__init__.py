"""Drawing of the embedded base's training images: named colours, fills, shapes, parts, backgrounds and photographs."""
