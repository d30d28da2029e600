import { Type } from 'typebox'

const id = (description: string) => ({ type: 'string', format: 'uuid', description })

/** An empty reply that says it in headers: other than bodies, they are not validated, and stand here for the document. */
export const LetThrough = Type.Unsafe<undefined>({
  type: 'null',
  description: 'Let it through. The headers are for whoever it is meant for.',
  headers: {
    'X-Auth-Subject': id('The account, or the service.'),
    'X-Auth-Session': { type: 'string', description: 'The session (a UUID); empty for a service.' },
    'X-Auth-Roles': { type: 'string', description: 'With commas between them; empty without any.' },
    'X-Auth-Jti': id('The token.'),
  },
})
