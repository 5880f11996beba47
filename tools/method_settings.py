def meaning_of(m, k): return "?"
