import { Type } from 'typebox'

/** RFC 6749 §5.1, with the session it belongs to. Lifetimes are in seconds from now. */
export const SessionTokens = Type.Object({
  access_token: Type.String(),
  token_type: Type.Literal('Bearer'),
  expires_in: Type.Integer(),
  refresh_token: Type.String(),
  refresh_expires_in: Type.Integer(),
  session_id: Type.String({ format: 'uuid' }),
})

export const LogoutQuery = Type.Object(
  { scope: Type.Optional(Type.Literal('session')) },
  { additionalProperties: false },
)

/** None, or an object with nothing in it: many clients send one. */
export const LogoutBody = Type.Unsafe<null | Record<string, never>>({
  type: ['object', 'null'],
  additionalProperties: false,
})
