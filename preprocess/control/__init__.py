"""Pictures that a ControlNet is conditioned on: made from the training pictures, or given beside them."""
