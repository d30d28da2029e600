/** A grammar that no list and no header can be split by: roles travel with commas between them. */
export const rolePattern = '^[a-z][a-z0-9:._-]{0,63}$'

const pattern = new RegExp(rolePattern)
export const isRole = (text: string): boolean => pattern.test(text)

/** What a guard wants of a token's roles: one of them, or each. */
export type RoleDemand = { anyOf: readonly string[] } | { allOf: readonly string[] }

export function meetsDemand(roles: readonly string[], demand: RoleDemand): boolean {
  return 'anyOf' in demand
    ? demand.anyOf.some((role) => roles.includes(role))
    : demand.allOf.every((role) => roles.includes(role))
}
