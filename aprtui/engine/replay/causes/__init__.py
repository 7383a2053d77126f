"""Why a stage errs: of all alternatives, those that come out as captured where the model's own computation does not.

A walk over what fails (`finder`) looks at one stage (`stage_search`), or at a stretch of stages of which only the last
was captured (`segment_search`); both ask the same judge for a proof (`proof`).
"""
