/** What the document says of failures, in each of their forms. What many operations share stands there once. */
import { STATUS_CODES } from 'node:http'
import type { TSchema } from 'typebox'
import { Outcome, type OutcomeCode } from '../outcomes.ts'
import { OauthError, oauthErrorHeadersOf, oauthErrorOf, oauthStatusOf } from './oauth-errors.ts'
import {
  exampleMembers,
  Problem,
  problemHeadersOf,
  problemMediaType,
  problemOf,
  statusOf,
} from './problem-details.ts'

type Reference = { $ref: string }

/** How failures look to those who ask in one way. */
interface Form {
  mediaType: string
  /** The name of its schema. */
  name: string
  /** What the names of its responses and examples begin with. */
  prefix: string
  schema: TSchema
  /** The member by which programs decide. */
  member: string
  bodyOf(outcome: Outcome): Record<string, unknown>
  headersOf(outcome: Outcome): Record<string, string>
  statusOf(outcome: Outcome): number
}

const exampleId = '5f0c7d0e-5d0b-4e0a-9a43-1c1f2d8f8a3b'

const forms = {
  problem: {
    mediaType: problemMediaType,
    name: 'Problem',
    prefix: '',
    schema: Problem,
    member: 'code',
    bodyOf: (outcome) => problemOf(outcome, exampleId),
    headersOf: (outcome) => problemHeadersOf(outcome),
    statusOf: ({ code }) => statusOf(code, 'client'),
  },
  proxy: {
    mediaType: problemMediaType,
    name: 'Problem',
    prefix: 'proxy.',
    schema: Problem,
    member: 'code',
    bodyOf: (outcome) => problemOf(outcome, exampleId, 'proxy'),
    headersOf: (outcome) => problemHeadersOf(outcome, 'proxy'),
    statusOf: ({ code }) => statusOf(code, 'proxy'),
  },
  oauth: {
    mediaType: 'application/json',
    name: 'OauthError',
    prefix: 'OauthError.',
    schema: OauthError,
    member: 'error',
    bodyOf: oauthErrorOf,
    headersOf: oauthErrorHeadersOf,
    statusOf: oauthStatusOf,
  },
} satisfies Record<string, Form>

export interface ProblemResponses {
  /** One response for each status that these codes have. */
  responsesOf(codes: Iterable<OutcomeCode>, form: keyof typeof forms): Record<string, Reference>
  /** What those responses refer to; they add to it. */
  components: Record<'schemas' | 'headers' | 'responses' | 'examples', Record<string, object>>
}

const headers = {
  'WWW-Authenticate': {
    description: 'What is asked for, and what was wrong with what came (RFC 6750 §3).',
    schema: { type: 'string' },
  },
  'Retry-After': { description: 'Seconds to wait.', schema: { type: 'integer' } },
}

export function createProblemResponses(): ProblemResponses {
  const components: ProblemResponses['components'] = {
    schemas: { Problem, OauthError },
    headers,
    responses: {},
    examples: {},
  }

  /** Its name says which codes it can have. */
  function responseOf(status: string, codes: OutcomeCode[], form: Form): Reference {
    const called = (name: string) => `${form.prefix}${name}`
    const name = called(codes.join('.'))
    const outcomes = codes.map((code) => new Outcome(code, { members: exampleMembers[code] ?? {} }))
    for (const outcome of outcomes) {
      components.examples[called(outcome.code)] = { value: form.bodyOf(outcome) }
    }
    const names = outcomes.flatMap((outcome) => Object.keys(form.headersOf(outcome)))
    const told = [...new Set(outcomes.map((outcome) => form.bodyOf(outcome)[form.member]))]
    components.responses[name] = {
      description: `${STATUS_CODES[status]}: ${told.map((word) => `\`${word}\``).join(', ')}.`,
      ...(names.length > 0 && { headers: references('headers', names) }),
      content: {
        [form.mediaType]: {
          schema: {
            allOf: [reference('schemas', form.name), { properties: { [form.member]: { enum: told } } }],
          },
          examples: references('examples', codes, called),
        },
      },
    }
    return reference('responses', name)
  }

  return {
    components,
    responsesOf(codes, name) {
      const form: Form = forms[name]
      const byStatus: Record<string, OutcomeCode[]> = {}
      for (const code of codes) {
        const status = form.statusOf(new Outcome(code))
        byStatus[status] = [...(byStatus[status] ?? []), code]
      }
      return Object.fromEntries(
        Object.entries(byStatus).map(([status, codes]) => [status, responseOf(status, codes, form)]),
      )
    },
  }
}

const reference = (kind: keyof ProblemResponses['components'], name: string): Reference => ({
  $ref: `#/components/${kind}/${name}`,
})

const references = (
  kind: keyof ProblemResponses['components'],
  names: string[],
  called = (name: string) => name,
): Record<string, Reference> => Object.fromEntries(names.map((name) => [name, reference(kind, called(name))]))
