import os

__version__ = "0.1.0"

# Threads that wait for the next piece of work sleep instead of spinning, so that
# training isn't brought to a stop by another program that wants a core (the chapter on
# hardware). torch reads this when it is first imported; what you set yourself stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
