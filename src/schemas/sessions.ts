import { Type } from 'typebox'

/** RFC 6749 §5.1, with the session it belongs to. */
export const SessionTokens = Type.Object(
  {
    access_token: Type.String({ description: 'A JWT (RFC 9068).' }),
    token_type: Type.Literal('Bearer'),
    expires_in: Type.Integer({ description: 'Seconds from now.', examples: [900] }),
    refresh_token: Type.String(),
    refresh_expires_in: Type.Integer({ description: 'Seconds from now.', examples: [43_200] }),
    session_id: Type.String({ format: 'uuid' }),
  },
  { $id: 'SessionTokens', description: 'The tokens of a session.' },
)

export const LogoutQuery = Type.Object(
  { scope: Type.Optional(Type.Literal('session', { description: 'What ends.' })) },
  { additionalProperties: false },
)

/** None, or an object with nothing in it: many clients send one. */
export const LogoutBody = Type.Unsafe<null | Record<string, never>>({
  type: ['object', 'null'],
  additionalProperties: false,
})
