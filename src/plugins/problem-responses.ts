/** What the document says of failures, made from what plugins/problems sends. What many operations share stands there once. */
import { STATUS_CODES } from 'node:http'
import { Outcome, type OutcomeCode } from '../outcomes.ts'
import { Problem, presentations, problemHeadersOf, problemMediaType, problemOf } from './problem-details.ts'

type Reference = { $ref: string }

export interface ProblemResponses {
  /** One response for each status that these codes have. */
  responsesOf(codes: Iterable<OutcomeCode>): Record<string, Reference>
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
const exampleId = '5f0c7d0e-5d0b-4e0a-9a43-1c1f2d8f8a3b'

export function createProblemResponses(): ProblemResponses {
  const components: ProblemResponses['components'] = {
    schemas: { Problem },
    headers,
    responses: {},
    examples: {},
  }

  /** Its name says which codes it can have. */
  function responseOf(status: string, codes: OutcomeCode[]): Reference {
    const name = codes.join('.')
    const outcomes = codes.map((code) => new Outcome(code))
    for (const outcome of outcomes) {
      components.examples[outcome.code] = { value: problemOf(outcome, exampleId) }
    }
    const headers = outcomes.flatMap((outcome) => Object.keys(problemHeadersOf(outcome)))
    components.responses[name] = {
      description: `${STATUS_CODES[status]}: ${codes.map((code) => `\`${code}\``).join(', ')}.`,
      ...(headers.length > 0 && { headers: references('headers', headers) }),
      content: {
        [problemMediaType]: {
          schema: { allOf: [reference('schemas', 'Problem'), { properties: { code: { enum: codes } } }] },
          examples: references('examples', codes),
        },
      },
    }
    return reference('responses', name)
  }

  return {
    components,
    responsesOf(codes) {
      const byStatus: Record<string, OutcomeCode[]> = {}
      for (const code of codes) {
        const { status } = presentations[code]
        byStatus[status] = [...(byStatus[status] ?? []), code]
      }
      return Object.fromEntries(
        Object.entries(byStatus).map(([status, codes]) => [status, responseOf(status, codes)]),
      )
    },
  }
}

const reference = (kind: keyof ProblemResponses['components'], name: string): Reference => ({
  $ref: `#/components/${kind}/${name}`,
})

const references = (kind: keyof ProblemResponses['components'], names: string[]): Record<string, Reference> =>
  Object.fromEntries(names.map((name) => [name, reference(kind, name)]))
