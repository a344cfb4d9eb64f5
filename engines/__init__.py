"""How a run is launched: in this process, on Ray actors, or on a SuperLink."""
