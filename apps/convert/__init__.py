"""One field into another: a student learns what a teacher answers (`fieldforge convert`).

A conversion is a fit whose signal is a field: the same outline and loop (`apps/fit/job.py`, `loop.py`), the students
are the presets of `apps/fit`, and what is new is where targets come from. Scenes learn in stages (`stages.py`, Fang et
al. 2023), pictures and shapes at points.
"""
