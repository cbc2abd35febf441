"""Feed handlers: one file a wire format (pure, compiled), and the node that receives around them."""
