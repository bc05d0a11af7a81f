-- The number of a name, never used for another one.
--
-- KEYS   numbers:KIND (hash: name to number), used:KIND (hash: number to name)
-- ARGV   kind, name, candidates in the order of preference (0 = none)
-- Reply  the number, or false: all candidates are used
return numberOf(ARGV[1], ARGV[2], 3)
