"""How we know: what a user of the pack never runs.  Not in the registry's archive.

    world       the demo world: its scenes' captions and splits, its pairs, the training and measuring of its model
    attacks     ways to get past a guard, and the jobs and the stage that they need
    baselines   the published training-free methods, to be compared with
    benchmark   docs/benchmark.md: what is shipped, other methods and the published design, on frozen prompts
    words       docs/words.md: redirectors of typed words, on the demo world and on a pretrained text encoder
    pictures    docs/pictures.md: what the picture judge adds, what leaves the guard, attacks that know it
    backbones   docs/backbones.md: other architectures, small and trained on the demo world
    matrix      docs/matrix.md, docs/load.md and docs/other-packs.md: every graph that a guard must hold in, a server
                under load, and other packs beside ours
    costs       docs/costs.md: time, memory and waits of a guarded run, on a CPU and by a folder to take to a GPU
    study       docs/study.md: all of it on real checkpoints, by one command on a machine with a GPU
    host        a real ComfyUI: started, asked, and looked at in a browser
    release     files of the pack that are written by a program

`results.py` brings their figures together in docs/results.md.  Imports of nodes and saferedir_core go one way; nothing
there imports this.
"""
