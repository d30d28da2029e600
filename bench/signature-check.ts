/** Checks one ES256 signature over and over for so many seconds. Prints what a check takes, in microseconds of CPU. */
import { generateKeyPairSync, randomBytes, sign, verify } from 'node:crypto'

const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
/** As long as a token is without its signature. */
const input = Buffer.from(randomBytes(450).toString('base64url'))
const key = { key: publicKey, dsaEncoding: 'ieee-p1363' } as const
const signature = sign('sha256', input, { key: privateKey, dsaEncoding: 'ieee-p1363' })

function cpuPerCheck(milliseconds: number): number {
  const deadline = performance.now() + milliseconds
  const before = process.cpuUsage()
  let checks = 0
  for (; performance.now() < deadline; checks++)
    if (!verify('sha256', input, key, signature)) throw new Error('the signature is good')
  const { user, system } = process.cpuUsage(before)
  return (user + system) / checks
}

cpuPerCheck(200) // compiles
process.stdout.write(`${cpuPerCheck(Number(process.argv[2]) * 1000)}\n`)
