import type { Readable } from 'node:stream'
import { Type } from 'typebox'
import type { SecurityEvent } from '../bearer/security-events.ts'
import { Id } from './id.ts'

export const FeedQuery = Type.Object(
  {
    cursor: Type.Optional(
      Type.String({ description: 'Where the last page ended. Without it, all that is refused now.' }),
    ),
  },
  { additionalProperties: false },
)

export const FeedHeaders = Type.Object({
  accept: Type.Optional(
    Type.String({ description: '`text/event-stream` for a stream that goes on, else a page.' }),
  ),
  'last-event-id': Type.Optional(
    Type.String({
      description: 'Of a stream: the `id` of the last event that came, in place of the cursor.',
    }),
  ),
})

const seconds = (description: string) =>
  Type.Integer({ description: `${description}, in seconds since the epoch.` })

const Event = Type.Unsafe<SecurityEvent>(
  Type.Object(
    {
      iss: Type.String(),
      jti: Id,
      iat: seconds('When it was recorded'),
      sub_id: Type.Unknown({
        description:
          'RFC 9493 and SSF 1.0: `jwt_id` for a token, `complex` for a session, `iss_sub` for a generation of an account, `opaque` for a signing key.',
      }),
      events: Type.Record(
        Type.String(),
        Type.Object({
          expires_at: seconds('When all of it has expired'),
          ver: Type.Optional(Type.Integer({ description: 'Which generation.' })),
        }),
        { description: 'One, by its type.' },
      ),
    },
    { $id: 'Revocation', description: 'A revocation, as a security event (RFC 8417).' },
  ),
)

export const FeedPage = Type.Object(
  {
    events: Type.Array(Event),
    cursor: Type.String({ description: 'Where to go on.' }),
    more_available: Type.Boolean({ description: 'Whether there is more already.' }),
  },
  { $id: 'Revocations', description: 'A page of the feed.' },
)

export const FeedReply = {
  description: 'What was taken back, in the order in which it was committed.',
  content: {
    'application/json': { schema: FeedPage },
    'text/event-stream': { schema: Type.Unsafe<Readable>({ type: 'string' }) },
  },
}
