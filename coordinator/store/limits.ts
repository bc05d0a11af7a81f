/** Sessions that ran out are listed for so long. */
export const sessionKeptMs = 86_400_000;

/** Closed drains that are kept for people to look at. */
export const drainsKept = 1000;

/** How often a number is drawn before giving up; with fewer than a billion names in use this never happens. */
export const drawsMax = 64;
