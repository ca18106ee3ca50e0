"""From tensors to numbers with unit, direction, count, interval and protocol."""
