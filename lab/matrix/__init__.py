"""Every graph that a guard must hold in, run in the real host on the demo world and judged on pixels.

    python quickstart.py run lab/matrix/run.py

Cases are generated from the server's own node definitions, so a new host release brings its new samplers and nodes.
"""
