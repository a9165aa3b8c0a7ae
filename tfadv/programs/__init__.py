"""The programs, one module each: `parse` checks the command line, `prepare` loads, `run` works.

`start` starts them. What they share: `flags` and `flagfiles` parse, `rules` ties settings together,
`run_directory` holds the files of a run, `building` builds what settings describe, and `exits`
reports errors. `tfadv.settings` is the table of all settings.
"""
