import { Type } from 'typebox'

/** What a guarded route learns from a token. */
export const TokenHolder = Type.Object({
  sub: Type.String({ format: 'uuid' }),
  sid: Type.String({ format: 'uuid' }),
  roles: Type.Array(Type.String()),
  /** Seconds since the epoch. */
  exp: Type.Integer(),
})

/** RFC 7517, public members only: what is not named here cannot leave. */
export const Jwks = Type.Object({
  keys: Type.Array(
    Type.Object({
      kty: Type.String(),
      crv: Type.String(),
      x: Type.String(),
      y: Type.String(),
      kid: Type.String(),
      alg: Type.String(),
      use: Type.Literal('sig'),
    }),
  ),
})
