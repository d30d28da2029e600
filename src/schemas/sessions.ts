import { Type } from 'typebox'
import { Id } from './id.ts'

/** RFC 6749 §5.1, with the session it belongs to. */
export const SessionTokens = Type.Object(
  {
    access_token: Type.String({ description: 'A JWT (RFC 9068).' }),
    token_type: Type.Literal('Bearer'),
    expires_in: Type.Integer({ description: 'Seconds from now.', examples: [900] }),
    refresh_token: Type.Optional(
      Type.String({ description: 'Absent where it is in the cookie, or stays what it is.' }),
    ),
    refresh_expires_in: Type.Integer({ description: 'Seconds from now.', examples: [43_200] }),
    session_id: Type.String({ format: 'uuid' }),
  },
  { $id: 'SessionTokens', description: 'The tokens of a session.' },
)

/** Of any length that fits: what is no refresh token is refused as one, an access token too. */
const refreshToken = Type.String({ description: 'The `refresh_token` of a login or a refresh.' })

export const RefreshBody = Type.Unsafe<null | { refresh_token?: string }>({
  $id: 'Refresh',
  type: ['object', 'null'],
  properties: { refresh_token: refreshToken },
  additionalProperties: false,
  description: 'None, if it is in the cookie.',
})

export const LogoutQuery = Type.Object(
  {
    scope: Type.Optional(
      Type.Unsafe<'session' | 'others' | 'all'>(
        Type.String({ enum: ['session', 'others', 'all'], default: 'session', description: 'What ends.' }),
      ),
    ),
  },
  { additionalProperties: false },
)

/** None, or an object that may be empty: many clients send one. */
export const LogoutBody = Type.Unsafe<null | { refresh_token?: string }>({
  type: ['object', 'null'],
  properties: { refresh_token: refreshToken },
  additionalProperties: false,
  description: 'In place of an access token, or of the cookie.',
  examples: [{}],
})

export const SessionParams = Type.Object({ sid: Id })

export const Session = Type.Object(
  {
    id: Type.String({ format: 'uuid', description: 'The `sid` of its tokens.' }),
    created_at: Type.String({ format: 'date-time' }),
    last_used_at: Type.String({ format: 'date-time', description: 'The last login or refresh.' }),
    idle_expires_at: Type.String({
      format: 'date-time',
      description: 'It ends then, if it is not refreshed.',
    }),
    expires_at: Type.String({
      format: 'date-time',
      description: 'It ends then, however often it is refreshed.',
    }),
    remember: Type.Boolean(),
    address: Type.String({ description: 'Where the last login or refresh came from.' }),
    device: Type.String({
      description: 'What it came with, as that names itself. For people.',
      examples: ['Firefox on Linux'],
    }),
    current: Type.Boolean({ description: 'Whether it is the one that asks.' }),
  },
  { $id: 'Session', description: 'What one login started.' },
)

export const SessionList = Type.Object(
  { sessions: Type.Array(Session) },
  { $id: 'SessionList', description: 'Live ones, the youngest first.' },
)
