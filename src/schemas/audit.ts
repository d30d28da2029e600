import { Type } from 'typebox'

/** Without NUL, which Postgres does not take. */
const who = (description: string) =>
  Type.String({ minLength: 1, maxLength: 256, pattern: '^[^\\u0000]*$', description })

export const AuditQuery = Type.Object(
  {
    subject: Type.Optional(who('Only what is about this account, service, key or token.')),
    event: Type.Optional(
      Type.String({ maxLength: 64, pattern: '^[a-z_]+\\.[a-z_]+$', description: 'Only what is called so.' }),
    ),
    actor: Type.Optional(who('Only what this admin did, or `cli`.')),
    cursor: Type.Optional(
      Type.String({ pattern: '^[1-9][0-9]{0,14}$', description: 'The `next_cursor` of the page before.' }),
    ),
  },
  { additionalProperties: false },
)

export const PastEvent = Type.Object(
  {
    id: Type.Integer(),
    at: Type.String({ format: 'date-time' }),
    event: Type.String({ examples: ['login.failed'] }),
    subject: Type.Optional(
      Type.String({ description: 'Whom or what it is about: a `sub`, a `kid` or a `jti`.' }),
    ),
    actor: Type.Optional(
      Type.String({
        description: 'Who did it to them, if not they themselves: the `sub` of an admin, or `cli`.',
      }),
    ),
    request_id: Type.Optional(Type.String()),
    address: Type.Optional(Type.String({ description: 'Where the request came from.' })),
    details: Type.Object({}, { additionalProperties: true, description: 'The rest, such as a `reason`.' }),
  },
  { $id: 'PastEvent', description: 'Something that happened.' },
)

export const AuditPage = Type.Object(
  {
    events: Type.Array(PastEvent),
    next_cursor: Type.Optional(Type.String({ description: 'Absent on the last page.' })),
  },
  { $id: 'AuditPage', description: 'Some of what happened.' },
)
