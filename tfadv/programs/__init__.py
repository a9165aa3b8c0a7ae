"""The programs: from a command line to the last line of a run.

`start` parses and checks a command line without TensorFlow, and then imports the module of the
program, which is read from `prepare` to its end. `settings` is the one table of all settings.
"""
