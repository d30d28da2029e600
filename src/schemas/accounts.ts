import { Type } from 'typebox'
import { rolePattern } from '../bearer/roles.ts'
import { Id } from './id.ts'
import { code } from './second-factors.ts'
import { Session } from './sessions.ts'

// Only the shape is said here. What a good username or password is, the accounts know: it depends on the settings.
const username = Type.String({ maxLength: 1024, examples: ['ada'] })
const password = Type.String({ maxLength: 1024, examples: ['correct horse battery'] })

const email = Type.String({ format: 'email', maxLength: 254, examples: ['ada@example.org'] })

export const RegistrationBody = Type.Object(
  { username, password, email: Type.Optional(email) },
  { $id: 'Registration', additionalProperties: false },
)

export const Account = Type.Object(
  {
    id: Type.String({ format: 'uuid', description: 'The `sub` of its tokens.' }),
    username: Type.String({ description: 'In its canonical form.', examples: ['ada'] }),
    email: Type.Optional(Type.String({ examples: ['ada@example.org'] })),
    email_verified: Type.Optional(
      Type.Boolean({
        description: 'Whether they have shown that they read it. Only then it recovers the account.',
      }),
    ),
    roles: Type.Array(Type.String()),
    created_at: Type.String({ format: 'date-time' }),
  },
  { $id: 'Account', description: 'An account, as its owner sees it.' },
)

const role = Type.String({ pattern: rolePattern })

const roles = Type.Array(role, { maxItems: 32, uniqueItems: true, examples: [['editor']] })

const status = Type.Unsafe<'active' | 'disabled'>(
  Type.String({ enum: ['active', 'disabled'], examples: ['disabled'] }),
)

export const ManagedAccount = Type.Object(
  { ...Account.properties, status },
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
  {
    query: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: 254,
        pattern: '^[^\\u0000]*$',
        description: 'What the username or the e-mail address begins with, in any case.',
      }),
    ),
    role: Type.Optional(role),
    status: Type.Optional(status),
    cursor: Type.Optional(cursor),
  },
  { additionalProperties: false },
)

export const NewAccountBody = Type.Object(
  {
    username: Type.String({ maxLength: 1024, examples: ['grete'] }),
    password: Type.Optional(password),
    password_hash: Type.Optional(
      Type.String({
        maxLength: 1024,
        description:
          'In place of the password, what another system made of it: by Argon2 or bcrypt, or by scrypt or PBKDF2 as Werkzeug and passlib write them.',
      }),
    ),
    email: Type.Optional(email),
    email_verified: Type.Optional(
      Type.Boolean({ description: 'Whether it is known already that they read it.' }),
    ),
    roles: Type.Optional(roles),
  },
  { $id: 'NewAccount', additionalProperties: false },
)

export const StatusBody = Type.Object({ status }, { $id: 'Status', additionalProperties: false })

/** Without what would control the terminal of whoever reads it. */
export const Reason = Type.String({
  minLength: 1,
  maxLength: 200,
  pattern: '^\\P{Cc}*$',
  description: 'For the record.',
})

export const RecallBody = Type.Object(
  {
    session_id: Type.Optional({ ...Id, description: 'Only this session.' }),
    reason: Type.Optional(Reason),
    dry_run: Type.Optional(Type.Boolean({ description: 'Only tells what would end.' })),
  },
  { $id: 'Recall', additionalProperties: false },
)

export const Recalled = Type.Object(
  { sessions: Type.Array(Type.Omit(Session, ['current'])) },
  { $id: 'Recalled', description: 'The sessions that have ended, or would.' },
)

export const TokenParams = Type.Object({ jti: Id })

export const ReasonQuery = Type.Object({ reason: Type.Optional(Reason) }, { additionalProperties: false })

export const AccountParams = Type.Object({ id: Id })

export const RoleParams = Type.Object({ role })

export const RolesBody = Type.Object({ roles }, { $id: 'Roles', additionalProperties: false })

export const ReauthenticationBody = Type.Object(
  { password, code: Type.Optional(code) },
  { $id: 'Reauthentication', additionalProperties: false },
)

export const PasswordChangeBody = Type.Object(
  {
    current_password: password,
    new_password: Type.String({ maxLength: 1024, examples: ['battery of correct horses'] }),
  },
  { $id: 'PasswordChange', additionalProperties: false },
)

const session = Type.Unsafe<'body' | 'cookie'>(
  Type.String({
    enum: ['body', 'cookie'],
    default: 'body',
    description:
      'Where the refresh token is put: into the reply, or for browsers into a cookie that scripts cannot read.',
  }),
)

export const LoginBody = Type.Object(
  {
    username,
    password,
    remember: Type.Optional(Type.Boolean({ description: 'Asks for a longer session.' })),
    session: Type.Optional(session),
  },
  { $id: 'Login', additionalProperties: false },
)

export const MfaLoginBody = Type.Object(
  {
    mfa_token: Type.String({
      description: 'Of the `mfa_required` that the password was answered by.',
    }),
    code,
    session: Type.Optional(session),
  },
  { $id: 'MfaLogin', additionalProperties: false },
)

export const ForgottenPasswordBody = Type.Unsafe<{ username?: string; email?: string }>({
  $id: 'ForgottenPassword',
  type: 'object',
  properties: { username, email },
  minProperties: 1,
  maxProperties: 1,
  additionalProperties: false,
  description: 'One of the two.',
  examples: [{ email: 'ada@example.org' }],
})

/** Of a link in a mail. */
const mailToken = Type.String({ description: 'What stands behind `=` in the link.' })

export const PasswordResetBody = Type.Object(
  {
    token: mailToken,
    new_password: Type.String({ maxLength: 1024, examples: ['battery of correct horses'] }),
  },
  { $id: 'PasswordReset', additionalProperties: false },
)

export const EmailVerificationBody = Type.Object(
  { token: mailToken },
  { $id: 'EmailVerification', additionalProperties: false },
)

export const EmailChangeBody = Type.Object({ email }, { $id: 'EmailChange', additionalProperties: false })
