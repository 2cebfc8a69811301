"""The LiveKit bridge: says when nobody is left in the room of a run, and when somebody is back."""
