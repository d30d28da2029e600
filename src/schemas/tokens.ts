import { Type } from 'typebox'

export const TokenHolder = Type.Object(
  {
    sub: Type.String({ format: 'uuid', description: 'The account.' }),
    sid: Type.String({ format: 'uuid', description: 'The session.' }),
    roles: Type.Immutable(Type.Array(Type.String())),
    exp: Type.Integer({ description: 'Seconds since the epoch.', examples: [1_893_456_000] }),
  },
  { $id: 'TokenHolder', description: 'What a guarded route learns from a token.' },
)

/** RFC 7517, public members only: what is not named here cannot leave. */
export const Jwks = Type.Object(
  {
    keys: Type.Array(
      Type.Object({
        kty: Type.String({ examples: ['EC'] }),
        crv: Type.String({ examples: ['P-256'] }),
        x: Type.String(),
        y: Type.String(),
        kid: Type.String(),
        alg: Type.String({ examples: ['ES256'] }),
        use: Type.Literal('sig'),
      }),
    ),
  },
  { $id: 'Jwks', description: 'The public keys that validate access tokens (RFC 7517).' },
)

export const JwksHeaders = Type.Object({
  'if-none-match': Type.Optional(Type.String({ description: 'The `ETag` of an earlier reply.' })),
})
