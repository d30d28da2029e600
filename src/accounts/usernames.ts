/**
 * Usernames have one canonical form, and only that form is stored, compared and told: two names that fold alike are
 * one name (after RFC 8265 §3.3, with NFKC as the width mapping).
 */

/**
 * Control, format (bidi, zero-width), private, unassigned and lone surrogate code points; spaces; what Unicode lets a
 * renderer leave out; `:`, which ends a name in HTTP Basic.
 */
const forbidden = /[\p{C}\p{Z}\p{Default_Ignorable_Code_Point}:]/u

export const usernameLength = { min: 3, max: 64 }

/** The same for all that people take for the same text: width and case are gone. */
export const fold = (text: string): string =>
  // By way of upper case, which brings together what lower case keeps apart, such as ß and ss, σ and ς.
  text.normalize('NFKC').toLowerCase().toUpperCase().toLowerCase().normalize('NFKC')

/** The canonical form of a username, or undefined if it has none. Lengths count code points. */
export function canonicalUsername(username: string): string | undefined {
  if (!username.isWellFormed()) return undefined
  const folded = fold(username)
  if (forbidden.test(folded)) return undefined
  const length = [...folded].length
  return length >= usernameLength.min && length <= usernameLength.max ? folded : undefined
}
