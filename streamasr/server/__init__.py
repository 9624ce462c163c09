"""The caption server: websockets and a few pages over one port, one module per dialect."""
