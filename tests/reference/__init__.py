"""The everyday oracle: implementations that are slow, exact to float64, and simple enough to trust."""
