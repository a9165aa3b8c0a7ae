"""What exists by name: normalizations, networks, data sets, attacks, devices.

A program checks its flags against these tables, so reading them imports neither TensorFlow nor
NumPy. Each table is where the one line of a new normalization, network or data set goes.
"""
