"""How a run is launched: in this process, through Flower's simulation, or on a SuperLink."""
