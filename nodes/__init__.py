"""The pack.  A file here is a node and thin: clone, call, return; the rooms below do the work.

    guarding     the guard's part in the host's sampling; no other room speaks to that
    weights      where redirectors lie, and their download
    training     trajectories of the user's model, and what is learned from them
    evaluation   guarded and unguarded images side by side
    editor       what the editor shows of a run, and what pictures say of it
    demo_world   the small diffusion model, and the judge that reads its pictures
    commands     the same work from the command line (saferedir.py)

Imports nothing: a command that needs no host (`pairs`) starts without one.
"""
