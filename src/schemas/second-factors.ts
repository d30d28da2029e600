import { Type } from 'typebox'

export const code = Type.String({
  minLength: 1,
  maxLength: 64,
  description: 'Six digits of the app, or a recovery code; spaces and dashes do not matter.',
})

/** None, or an object that is empty: many clients send one. */
export const NoBody = Type.Unsafe<null | Record<string, never>>({
  type: ['object', 'null'],
  properties: {},
  additionalProperties: false,
  examples: [{}],
})

export const CodeBody = Type.Object({ code }, { $id: 'Code', additionalProperties: false })

const methods = Type.Array(
  Type.Unsafe<'totp' | 'recovery_code'>(Type.String({ enum: ['totp', 'recovery_code'] })),
)

export const FactorSummary = Type.Object(
  { methods, recovery_codes_left: Type.Integer() },
  { $id: 'FactorSummary', description: 'What a login takes besides the password: nothing, or one of these.' },
)

export const Enrolment = Type.Object(
  {
    secret: Type.String({ description: 'In Base32, to type into the app.' }),
    otpauth_uri: Type.String({ description: 'The same for the app to open.' }),
    qr_svg: Type.String({ description: 'The same as a picture to scan: an SVG document.' }),
  },
  { $id: 'Enrolment', description: 'Told this once. It counts when a first code has been shown.' },
)

export const RecoveryCodes = Type.Object(
  { recovery_codes: Type.Array(Type.String()) },
  { $id: 'RecoveryCodes', description: 'Told this once. Each stands in for the app once.' },
)
