import { Type } from 'typebox'
import { rolePattern } from '../bearer/roles.ts'
import { Id } from './id.ts'

// Only the shape is said here. What a good username or password is, the accounts know: it depends on the settings.
const username = Type.String({ maxLength: 1024, examples: ['ada'] })
const password = Type.String({ maxLength: 1024, examples: ['correct horse battery'] })

export const RegistrationBody = Type.Object(
  {
    username,
    password,
    email: Type.Optional(Type.String({ format: 'email', maxLength: 254, examples: ['ada@example.org'] })),
  },
  { $id: 'Registration', additionalProperties: false },
)

export const Account = Type.Object(
  {
    id: Type.String({ format: 'uuid', description: 'The `sub` of its tokens.' }),
    username: Type.String({ description: 'In its canonical form.', examples: ['ada'] }),
    email: Type.Optional(Type.String({ examples: ['ada@example.org'] })),
    roles: Type.Array(Type.String()),
    created_at: Type.String({ format: 'date-time' }),
  },
  { $id: 'Account', description: 'An account, as its owner sees it.' },
)

const role = Type.String({ pattern: rolePattern })

export const ManagedAccount = Type.Object(
  {
    ...Account.properties,
    status: Type.Unsafe<'active' | 'disabled'>(Type.String({ enum: ['active', 'disabled'] })),
  },
  { $id: 'ManagedAccount', description: 'An account, as an admin sees it.' },
)

export const AccountPage = Type.Object(
  {
    users: Type.Array(ManagedAccount),
    next_cursor: Type.Optional(Type.String({ description: 'Absent on the last page.' })),
  },
  { $id: 'AccountPage', description: 'Some of the accounts.' },
)

/** Without NUL, which Postgres does not take. */
const cursor = Type.String({
  minLength: 1,
  maxLength: 1024,
  pattern: '^[^\\u0000]*$',
  description: 'The `next_cursor` of the page before.',
})

export const AccountPageQuery = Type.Object(
  { cursor: Type.Optional(cursor) },
  { additionalProperties: false },
)

export const AccountParams = Type.Object({ id: Id })

export const RoleParams = Type.Object({ role })

export const RolesBody = Type.Object(
  { roles: Type.Array(role, { maxItems: 32, uniqueItems: true, examples: [['editor']] }) },
  { $id: 'Roles', additionalProperties: false },
)

export const ReauthenticationBody = Type.Object(
  { password },
  { $id: 'Reauthentication', additionalProperties: false },
)

export const PasswordChangeBody = Type.Object(
  {
    current_password: password,
    new_password: Type.String({ maxLength: 1024, examples: ['battery of correct horses'] }),
  },
  { $id: 'PasswordChange', additionalProperties: false },
)

export const LoginBody = Type.Object(
  {
    username,
    password,
    remember: Type.Optional(Type.Boolean({ description: 'Asks for a longer session.' })),
    session: Type.Optional(
      Type.Unsafe<'body' | 'cookie'>(
        Type.String({
          enum: ['body', 'cookie'],
          default: 'body',
          description:
            'Where the refresh token is put: into the reply, or for browsers into a cookie that scripts cannot read.',
        }),
      ),
    ),
  },
  { $id: 'Login', additionalProperties: false },
)
