"""How we know: what a user of the pack never runs.  Not in the registry's archive.

    world       the demo world: its scenes' captions and splits, its pairs, the training and measuring of its model
    attacks     ways to get past a guard, and the jobs and the stage that they need
    baselines   the published training-free methods, to be compared with
    benchmark   docs/benchmark.md: ours, everything else, and every attack, on frozen prompts of the demo world
    backbones   docs/backbones.md: other architectures, small and trained on the demo world
    matrix      docs/matrix.md, docs/load.md and docs/other-packs.md: every graph that a guard must hold in, a server
                under load, and other packs beside ours
    costs       docs/costs.md: time, memory and waits of a guarded run, on a CPU and by a folder to take to a GPU
    host        a real ComfyUI: started, asked, and looked at in a browser
    release     files of the pack that are written by a program

Imports of nodes and saferedir_core go one way; nothing there imports this.
"""
