"""What is done with an untrusted file in a child process: reading HDF5, and drawing a picture of its data.

``process`` forks the children, ``hdf5`` and ``nxdata`` read, ``drawing`` makes a PNG. Nothing of a file is
opened outside of here; what is asked and answered is in the modules of the room above that do the asking.
"""
