/** What access tokens may be signed with (RFC 7518 §3.1, RFC 8037). A key is for one of them; its verifiers take no other (RFC 8725 §3.1). */
export const signingAlgorithms = ['ES256', 'RS256', 'EdDSA'] as const
export type SigningAlgorithm = (typeof signingAlgorithms)[number]
