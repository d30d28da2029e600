import { Type } from 'typebox'
import { type SigningAlgorithm as Algorithm, signingAlgorithms } from '../bearer/algorithms.ts'

export const TokenHolder = Type.Object(
  {
    sub: Type.String({ format: 'uuid', description: 'The account.' }),
    sid: Type.String({ format: 'uuid', description: 'The session.' }),
    roles: Type.Immutable(Type.Array(Type.String())),
    exp: Type.Integer({ description: 'Seconds since the epoch.', examples: [1_893_456_000] }),
  },
  { $id: 'TokenHolder', description: 'What a guarded route learns from a token.' },
)

export const SigningAlgorithm = Type.Unsafe<Algorithm>(
  Type.String({ enum: [...signingAlgorithms], examples: ['ES256'] }),
)

/** RFC 7517, public members only: what is not named here cannot leave. */
export const Jwks = Type.Object(
  {
    keys: Type.Array(
      Type.Object({
        kty: Type.Unsafe<'EC' | 'RSA' | 'OKP'>(Type.String({ enum: ['EC', 'RSA', 'OKP'], examples: ['EC'] })),
        crv: Type.Optional(Type.String({ examples: ['P-256'] })),
        x: Type.Optional(Type.String()),
        y: Type.Optional(Type.String()),
        n: Type.Optional(Type.String()),
        e: Type.Optional(Type.String()),
        kid: Type.String(),
        alg: SigningAlgorithm,
        use: Type.Literal('sig'),
      }),
    ),
  },
  { $id: 'Jwks', description: 'The public keys that validate access tokens (RFC 7517).' },
)

export const JwksHeaders = Type.Object({
  'if-none-match': Type.Optional(Type.String({ description: 'The `ETag` of an earlier reply.' })),
})
