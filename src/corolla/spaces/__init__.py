"""Search spaces and the supernets whose regions their architectures are. One file per space."""
