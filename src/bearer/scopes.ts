/** One scope (RFC 6749 §3.3), without what a header or a list could be split by. */
export const scopePattern = '^[a-zA-Z0-9][a-zA-Z0-9:._/-]{0,63}$'
const scopeToken = new RegExp(scopePattern)

export const isScopeToken = (text: string): boolean => scopeToken.test(text)

/** The scopes of a list with single spaces between, or undefined if it is none. */
export function parseScope(scope: string): string[] | undefined {
  const scopes = scope.split(' ')
  return scopes.every(isScopeToken) ? scopes : undefined
}
