"""streamasr: live captions on your own machine."""
