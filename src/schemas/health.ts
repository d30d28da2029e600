import { Type } from 'typebox'

export const Live = Type.Object({ status: Type.Literal('live') }, { description: 'The process answers.' })

export const Ready = Type.Object(
  {
    status: Type.Literal('ready'),
    mode: Type.String({
      description: 'What answers whether a token was taken back.',
      examples: ['tail and index'],
    }),
    missing: Type.Array(Type.String(), {
      description: 'What does not answer now and is not needed for that.',
      examples: [[]],
    }),
  },
  { description: 'Live tokens can be told from dead ones.' },
)
