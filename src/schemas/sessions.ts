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

/** Of any length that fits: what is no refresh token is refused as one, an access token too. */
const refreshToken = Type.String()

export const RefreshBody = Type.Object({ refresh_token: refreshToken }, { additionalProperties: false })

export const LogoutQuery = Type.Object(
  {
    scope: Type.Optional(
      Type.Unsafe<'session' | 'others' | 'all'>({ type: 'string', enum: ['session', 'others', 'all'] }),
    ),
  },
  { additionalProperties: false },
)

/** None, or an object that may be empty: many clients send one. */
export const LogoutBody = Type.Unsafe<null | { refresh_token?: string }>({
  type: ['object', 'null'],
  properties: { refresh_token: refreshToken },
  additionalProperties: false,
})

/** Not the format `uuid`, which is also `urn:uuid:…`: Postgres does not take that. */
const uuid = '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$'

export const SessionParams = Type.Object({ sid: Type.String({ pattern: uuid }) })

export const SessionList = Type.Object({
  sessions: Type.Array(
    Type.Object({
      id: Type.String({ format: 'uuid' }),
      created_at: Type.String({ format: 'date-time' }),
      last_used_at: Type.String({ format: 'date-time' }),
      expires_at: Type.String({ format: 'date-time' }),
      remember: Type.Boolean(),
      current: Type.Boolean(),
    }),
  ),
})
