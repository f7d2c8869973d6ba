def write_part(name, found, arguments):
    from ...nodes.evaluation.summary import summarise
    for part, concepts in found.items():
        for c, lines in concepts.items():
            s = summarise(lines)
            for row, each in s["rows"].items():
                for m, f in each["methods"].items():
                    shown = {k: (round(v["value"], 4), v.get("total")) for k, v in f.items() if isinstance(v, dict)}
                    print(part, c, row, m, shown)
